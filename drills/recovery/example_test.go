package recovery_test

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

// A service sent three outputs and died. The one that took over sent the third again, and
// went on.
func ExampleClassify() {
	output := func(n int, epoch tidegate.Epoch) recovery.Output {
		return recovery.Output{
			ID:     recovery.ID{Stream: "eur", Input: tidegate.Position(100 * n)},
			Digest: recovery.DigestOf(fmt.Append(nil, "balance ", n)),
			Epoch:  epoch,
		}
	}
	golden := &recovery.Golden{Content: true}
	for n := range 8 {
		golden.Outputs = append(golden.Outputs, output(n, 0))
	}
	seen, err := recovery.Classify(recovery.Evidence{
		Before: []recovery.Output{output(0, 1), output(1, 1), output(2, 1)},
		After:  []recovery.Output{output(2, 2), output(3, 2), output(4, 2), output(5, 2)},
		Golden: golden,
		Terms:  recovery.Terms{Epoch: 2, MinTail: 3},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("observed:", seen)
	fmt.Println(seen.Reasons[0])

	predicted := recovery.Expected(recovery.Setup{
		Approach: recovery.PassiveStandby, Class: recovery.Deterministic, IDs: true, Gate: true, Dedup: true,
	})
	compared := recovery.Compare(predicted, recovery.Repeating, seen)
	fmt.Println(compared.Outcome, compared.Reasons)
	// Output:
	// observed: repeating
	// eur: 1 output again, identical
	// failed [observed repeating is weaker than the predicted precise]
}
