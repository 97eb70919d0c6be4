package recovery

import "github.com/tidegate/tidegate"

// failures is the failure function of Knuth, Morris and Pratt: of each prefix of part,
// the length of its longest border.
func failures(part []tidegate.Digest) []int {
	f := make([]int, len(part))
	for i, k := 1, 0; i < len(part); i++ {
		for k > 0 && part[k] != part[i] {
			k = f[k-1]
		}
		if part[k] == part[i] {
			k++
		}
		f[i] = k
	}
	return f
}

// occurrences returns where part, which is not empty, lies in whole, ascending.
func occurrences(whole, part []tidegate.Digest) (at []int) {
	f := failures(part)
	k := 0
	for i, d := range whole {
		if k = extend(part, f, k, d); k == len(part) {
			at = append(at, i+1-k)
		}
	}
	return at
}

// overlap returns how many outputs at the end of before are those at the beginning of
// after: at most.
func overlap(before, after []tidegate.Digest) (k int) {
	if len(after) == 0 {
		return 0
	}
	f := failures(after)
	for _, d := range before {
		k = extend(after, f, k, d)
	}
	return k
}

// extend returns the length of part's longest prefix that ends with d, where k was that
// before d.
func extend(part []tidegate.Digest, f []int, k int, d tidegate.Digest) int {
	if k == len(part) {
		k = f[k-1]
	}
	for k > 0 && part[k] != d {
		k = f[k-1]
	}
	if part[k] == d {
		k++
	}
	return k
}

// parts is what a longest common subsequence says.
type parts struct {
	matched, again          int // outputs that fit; of these, delivered before
	missing, wrong, phantom int
	reordered               int
	tail, reach             int // outputs at the end that fit next to each other; the place behind the last that fits
}

// match fits after to golden[from:to) of which what lies before place n was delivered.
func match(after, golden []tidegate.Digest, from, to, n int) (p parts) {
	pairs := common(after, golden[from:to])
	for i := range pairs {
		pairs[i][1] += from
	}
	for k, pair := range pairs {
		if pair[1] < n {
			p.again++
		}
		p.reach = pair[1] + 1
		if k > 0 && pair[0] == pairs[k-1][0]+1 && pair[1] == pairs[k-1][1]+1 {
			p.tail++
		} else {
			p.tail = 1
		}
	}
	p.matched = len(pairs)
	if p.matched > 0 && pairs[p.matched-1][0] != len(after)-1 {
		p.tail = 0
	}
	p.between(after, golden, from, n, pairs)
	return p
}

// between counts what lies between the pairs.
func (p *parts) between(after, golden []tidegate.Digest, from, n int, pairs [][2]int) {
	moved := p.moved(after, golden, n, pairs)
	i, j := 0, from
	for _, pair := range pairs {
		extra := 0
		for ; i < pair[0]; i++ {
			if !moved.take(after[i], true) {
				extra++
			}
		}
		all, fresh := pair[1]-j, 0
		for ; j < pair[1]; j++ {
			if j >= n && !moved.take(golden[j], false) {
				fresh++
			}
		}
		p.missing += max(0, fresh-extra)
		p.wrong += min(extra, all)
		p.phantom += max(0, extra-all)
		i, j = pair[0]+1, pair[1]+1
	}
	for ; i < len(after); i++ {
		if !moved.take(after[i], true) {
			p.wrong++
		}
	}
}

// moves counts outputs that are both left over and missing: they came elsewhere.
type moves struct{ came, due map[tidegate.Digest]int }

func (m moves) take(d tidegate.Digest, came bool) bool {
	left := m.due
	if came {
		left = m.came
	}
	if left[d] == 0 {
		return false
	}
	left[d]--
	return true
}

// moved finds outputs that fit, but in another order.
func (p *parts) moved(after, golden []tidegate.Digest, n int, pairs [][2]int) moves {
	came, due := map[tidegate.Digest]int{}, map[tidegate.Digest]int{}
	i, j := 0, n
	for _, pair := range pairs {
		for ; i < pair[0]; i++ {
			came[after[i]]++
		}
		for ; j < pair[1]; j++ {
			due[golden[j]]++
		}
		i, j = pair[0]+1, max(j, pair[1]+1)
	}
	for ; i < len(after); i++ {
		came[after[i]]++
	}
	m := moves{map[tidegate.Digest]int{}, map[tidegate.Digest]int{}}
	for d, c := range came {
		if both := min(c, due[d]); both > 0 {
			m.came[d], m.due[d] = both, both
			p.reordered += both
		}
	}
	return m
}

// common returns the pairs of places of a longest common subsequence.
func common(a, b []tidegate.Digest) (pairs [][2]int) {
	width := len(b) + 1
	longest := make([]uint16, (len(a)+1)*width) // of a[i:] and b[j:]; at most alignMax
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			at := i*width + j
			if a[i] == b[j] {
				longest[at] = longest[at+width+1] + 1
			} else {
				longest[at] = max(longest[at+width], longest[at+1])
			}
		}
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch at := i*width + j; {
		case a[i] == b[j]:
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case longest[at+width] >= longest[at+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
