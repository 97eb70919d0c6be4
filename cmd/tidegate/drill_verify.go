package main

import (
	"fmt"
	"io"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillVerifyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "check the signatures of reports and the chains that they make", ArgsUsage: "[FILE|DIRECTORY...]",
		Flags: evidenceFlags(keyFlag(),
			&ucli.StringSliceFlag{Name: "head", Usage: "`HASH` of a report that was noted outside: it must be there; may be said more than once"}),
		Action: verifyEvidence,
		Description: "Needs no gate and no network, unless the evidence lies in a bucket. Of a directory or an archive each chain must begin\n" +
			"with report 1; files are taken in the order given, and may be a part of a chain. Without --head it cannot be known\n" +
			"that no newer report was taken away. docs/verify-evidence.py does the same without Tidegate. Ends with 9 when\n" +
			"anything is not as it must be, and names it.\n\n" +
			"Examples:\n" +
			"   tidegate drill verify 0000000017.dsse.json --key drill.pub\n" +
			"   tidegate drill verify evidence/ --key drill.pub --key last-years.pub --head 9e406d36...\n" +
			"   tidegate drill verify --url file:///srv/archive --service bank --key drill.pub -o json",
	}
}

// verifiedEvidence is what verify prints.
type verifiedEvidence struct {
	Sound    bool            `json:"sound"`
	Chains   []verifiedChain `json:"chains"`
	Findings []foundEvidence `json:"findings"`
}

type verifiedChain struct {
	Service tidegate.ServiceName `json:"service"`
	First   evidence.Number      `json:"first"`
	Last    evidence.Number      `json:"last"`
	Head    evidence.Hash        `json:"head"`
	// Anchored is the newest report that --head proves, with all before it; null
	// where no --head is of this chain.
	Anchored *evidence.Number `json:"anchored"`
}

type foundEvidence struct {
	File    string               `json:"file,omitempty"`
	Service tidegate.ServiceName `json:"service,omitempty"`
	Number  evidence.Number      `json:"number,omitempty"`
	Kind    string               `json:"kind"`
	What    string               `json:"what"`
}

func verifyEvidence(c *ucli.Context) error {
	if len(c.StringSlice("key")) == 0 {
		return cli.Usagef("which key is trusted? --key FILE with the public key, as `tidegate drill key show` prints it")
	}
	keys, err := trustedKeys(c)
	if err != nil {
		return err
	}
	o := evidence.VerifyOptions{}
	for _, text := range c.StringSlice("head") {
		h, err := evidence.ParseHash(text)
		if err != nil {
			return cli.Usagef("--head: %w", err)
		}
		o.Heads = append(o.Heads, h)
	}
	read, err := readEvidence(c, 0)
	if err != nil {
		return err
	}
	o.Whole = read.whole
	p := evidence.Verify(read.files, keys, o)
	out := verifiedOf(p)
	if err := cli.Print(c, out, out.write); err != nil {
		return err
	}
	return p.Err()
}

func verifiedOf(p evidence.Proof) verifiedEvidence {
	out := verifiedEvidence{Sound: len(p.Findings) == 0, Chains: []verifiedChain{}, Findings: []foundEvidence{}}
	for _, one := range p.Chains {
		chain := verifiedChain{Service: one.Service, First: one.First, Last: one.Last, Head: one.Head}
		if one.Anchored > 0 {
			chain.Anchored = &one.Anchored
		}
		out.Chains = append(out.Chains, chain)
	}
	for _, f := range p.Findings {
		out.Findings = append(out.Findings, foundEvidence{f.Name, f.Service, f.Number, f.Kind(), f.String()})
	}
	return out
}

func (v verifiedEvidence) write(w io.Writer) error {
	for _, one := range v.Chains {
		fmt.Fprintf(w, "%s: reports %d to %d, head %s\n", one.Service, one.First, one.Last, one.Head)
		switch {
		case one.Anchored == nil && v.Sound:
			fmt.Fprintf(w, "  no --head is of this chain: that report %d is the newest is not proven\n", one.Last)
		case one.Anchored != nil && *one.Anchored < one.Last:
			fmt.Fprintf(w, "  the head that was noted is of report %d; reports behind it are not proven to be all\n", *one.Anchored)
		}
		if one.First > 1 && v.Sound {
			fmt.Fprintf(w, "  what came before report %d was not given\n", one.First)
		}
	}
	for _, f := range v.Findings {
		fmt.Fprintln(w, f.What)
	}
	if v.Sound {
		fmt.Fprintln(w, "all signatures and links are sound")
	}
	return nil
}
