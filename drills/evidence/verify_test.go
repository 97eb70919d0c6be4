package evidence_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/drills/evidence"
)

var trusted = []evidence.PublicKey{evidence.KeyFromSeed(1).Public()}

// chain seals n reports of a service, each behind the one before it.
func chain(t *testing.T, key *evidence.Key, service tidegate.ServiceName, n int) []evidence.File {
	t.Helper()
	var out []evidence.File
	var previous *evidence.Hash
	for i := 1; i <= n; i++ {
		r := bare()
		r.Service, r.Number, r.Previous = service, evidence.Number(i), previous
		r.ID = uuid.MustParse(fmt.Sprintf("0192a6f0-0000-7000-8000-%012d", i))
		s, err := evidence.Seal(t.Context(), key, r)
		if err != nil {
			t.Fatal(err)
		}
		previous = new(s.Hash)
		out = append(out, evidence.File{Name: archive.Drill{Service: service, Number: uint64(i)}.Name(), Data: s.Data})
	}
	return out
}

func hashOf(t *testing.T, f evidence.File) evidence.Hash {
	t.Helper()
	s, err := evidence.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return s.Hash
}

// reseal changes the payload and leaves the signature.
func reseal(t *testing.T, f evidence.File, from, to string) evidence.File {
	t.Helper()
	var env map[string]any
	if err := json.Unmarshal(f.Data, &env); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(env["payload"].(string))
	if err != nil || !bytes.Contains(payload, []byte(from)) {
		t.Fatal(err, from)
	}
	env["payload"] = base64.StdEncoding.EncodeToString(bytes.Replace(payload, []byte(from), []byte(to), 1))
	data, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	return evidence.File{Name: f.Name, Data: data}
}

func TestVerify(t *testing.T) {
	one, other := evidence.KeyFromSeed(1), evidence.KeyFromSeed(2)
	bank, shop := chain(t, one, "bank", 5), chain(t, one, "shop", 2)
	head := hashOf(t, bank[4])
	elsewhere := func(service tidegate.ServiceName, files []evidence.File) (out []evidence.File) {
		for i, f := range files {
			out = append(out, evidence.File{Name: archive.Drill{Service: service, Number: uint64(i + 1)}.Name(), Data: f.Data})
		}
		return out
	}
	strange := chain(t, other, "bank", 5)
	forged := slices.Clone(bank)
	forged[2] = strange[2]
	renamed := func(f evidence.File, name string) evidence.File { return evidence.File{Name: name, Data: f.Data} }
	whole := evidence.VerifyOptions{Whole: true, Heads: []evidence.Hash{head}}
	for name, tc := range map[string]struct {
		files []evidence.File
		keys  []evidence.PublicKey
		o     evidence.VerifyOptions
		want  []string // of the findings: the beginning of each
		is    error
	}{
		"good":                    {files: bank, o: whole},
		"two services":            {files: slices.Concat(shop, bank), o: whole},
		"mixed":                   {files: []evidence.File{bank[0], shop[0], bank[1], shop[1]}, o: evidence.VerifyOptions{Whole: true}},
		"a part":                  {files: bank[2:4]},
		"noted before the end":    {files: bank, o: evidence.VerifyOptions{Heads: []evidence.Hash{hashOf(t, bank[1])}}},
		"two keys":                {files: strange, keys: []evidence.PublicKey{one.Public(), other.Public(), one.Public()}, o: evidence.VerifyOptions{Whole: true}},
		"none":                    {o: evidence.VerifyOptions{Heads: []evidence.Hash{head}}, want: []string{"truncated: no report has the hash"}, is: evidence.ErrTruncated},
		"tampered":                {files: slices.Concat(bank[:2], []evidence.File{reseal(t, bank[2], "not empty", "empty")}, bank[3:]), o: whole, want: []string{"drills/bank/0000000003.dsse.json: report 3 of bank: tampered"}, is: evidence.ErrTampered},
		"tampered at the head":    {files: slices.Concat(bank[:4], []evidence.File{reseal(t, bank[4], "not empty", "empty")}), o: whole, want: []string{"truncated: ", "drills/bank/0000000005.dsse.json: report 5 of bank: tampered"}, is: evidence.ErrTampered},
		"tampered to no report":   {files: []evidence.File{reseal(t, bank[0], `"L1"`, `L1`)}, want: []string{"drills/bank/0000000001.dsse.json: tampered"}, is: evidence.ErrTampered},
		"no signature":            {files: []evidence.File{{Name: "x", Data: bytes.Replace(bank[0].Data, []byte(`"signatures":[`), []byte(`"signatures":[],"x":[`), 1)}}, want: []string{"x: report 1 of bank: tampered: it has no signature"}, is: evidence.ErrTampered},
		"another key":             {files: strange, want: slices.Repeat([]string{"drills/bank/"}, 5), is: evidence.ErrWrongKey},
		"one of another key":      {files: forged, o: whole, want: []string{"drills/bank/0000000003.dsse.json: report 3 of bank: wrong key: it is signed with key " + string(other.Public().ID())[:16]}, is: evidence.ErrWrongKey},
		"no key":                  {files: bank, keys: []evidence.PublicKey{}, want: []string{"wrong key: no key is trusted"}, is: evidence.ErrWrongKey},
		"another key's name":      {files: []evidence.File{{Name: "x", Data: bytes.Replace(strange[0].Data, []byte(other.Public().ID()), []byte(one.Public().ID()), 1)}}, want: []string{"x: report 1 of bank: tampered"}, is: evidence.ErrTampered},
		"one missing":             {files: slices.Concat(bank[:2], bank[3:]), o: whole, want: []string{"bank: missing link: report 3 is not there"}, is: evidence.ErrMissing},
		"two missing":             {files: slices.Concat(bank[:1], bank[3:]), o: whole, want: []string{"bank: missing link: reports 2 to 3 are not there"}, is: evidence.ErrMissing},
		"no beginning":            {files: bank[1:], o: whole, want: []string{"bank: missing link: report 1 is not there"}, is: evidence.ErrMissing},
		"truncated":               {files: bank[:4], o: whole, want: []string{"truncated: no report has the hash " + head.String() + " that was noted: it was removed or replaced; the chain of bank ends with report 4"}, is: evidence.ErrTruncated},
		"reordered":               {files: []evidence.File{bank[0], bank[2], bank[1], bank[3], bank[4]}, o: whole, want: []string{"drills/bank/0000000002.dsse.json: report 2 of bank: reordered: it stands behind report 3"}, is: evidence.ErrReordered},
		"names changed":           {files: []evidence.File{bank[0], renamed(bank[2], bank[1].Name), renamed(bank[1], bank[2].Name), bank[3], bank[4]}, o: whole, want: []string{"drills/bank/0000000003.dsse.json: report 2 of bank: reordered: it lies where report 3 belongs", "drills/bank/0000000002.dsse.json: report 3 of bank: reordered: it lies where report 2 belongs"}, is: evidence.ErrReordered},
		"another service's":       {files: elsewhere("shop", bank), o: whole, want: slices.Repeat([]string{"drills/shop/000000000"}, 5), is: evidence.ErrReordered},
		"copied with its folder":  {files: []evidence.File{renamed(bank[0], "/mnt/audit/drills/shop/0000000001.dsse.json")}, want: []string{"/mnt/audit/drills/shop/0000000001.dsse.json: report 1 of bank: reordered: it lies where reports of shop belong"}, is: evidence.ErrReordered},
		"in folders of one's own": {files: []evidence.File{renamed(bank[0], "/mnt/shop/0000000001.dsse.json"), renamed(bank[1], "drills/0000000002.dsse.json")}, o: evidence.VerifyOptions{Whole: true}},
		"twice":                   {files: slices.Concat(bank, []evidence.File{renamed(bank[4], "copy")}), o: whole, want: []string{"copy: report 5 of bank: forked: drills/bank/0000000005.dsse.json is the same report"}, is: evidence.ErrForked},
		"not json":                {files: []evidence.File{{Name: "x", Data: []byte("{")}}, want: []string{"x: unreadable"}, is: evidence.ErrUnreadable},
		"of another type":         {files: []evidence.File{{Name: "x", Data: bytes.Replace(bank[0].Data, []byte("vnd.tidegate"), []byte("vnd.other"), 1)}}, want: []string{"x: unreadable"}, is: evidence.ErrUnreadable},
		"too long":                {files: []evidence.File{{Name: "x", Data: make([]byte, evidence.EnvelopeBytesMax+1)}}, want: []string{"x: unreadable"}, is: evidence.ErrUnreadable},
		"the end of another key":  {files: slices.Concat(bank[:3], strange[3:]), o: evidence.VerifyOptions{Whole: true}, want: []string{"drills/bank/0000000004.dsse.json: report 4 of bank: wrong key", "drills/bank/0000000005.dsse.json: report 5 of bank: wrong key"}, is: evidence.ErrWrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.keys == nil {
				tc.keys = trusted
			}
			p := evidence.Verify(tc.files, tc.keys, tc.o)
			ok := len(p.Findings) == len(tc.want)
			for i := range min(len(p.Findings), len(tc.want)) {
				ok = ok && strings.HasPrefix(p.Findings[i].String(), tc.want[i])
			}
			if !ok {
				t.Errorf("got %q\nwant %q", p.Findings, tc.want)
			}
			if err := p.Err(); (err == nil) != (tc.is == nil) {
				t.Errorf("%v", err)
			} else if err != nil && (tidegate.ClassOf(err) != tidegate.Corrupt || tidegate.HintOf(err) == "") {
				t.Errorf("class %s, hint %q: %v", tidegate.ClassOf(err), tidegate.HintOf(err), err)
			}
			if tc.is != nil && !slices.ContainsFunc(p.Findings, func(f evidence.Finding) bool { return errors.Is(f.Err, tc.is) }) {
				t.Errorf("got %v, want %v", p.Findings, tc.is)
			}
		})
	}
}

// TestVerifyForks: whoever has the key can sign two reports of one number, and a chain
// cannot have both.
func TestVerifyForks(t *testing.T) {
	key := evidence.KeyFromSeed(1)
	bank := chain(t, key, "bank", 4)
	r := bare()
	r.Number, r.Previous, r.Scenario = 3, new(hashOf(t, bank[1])), "another"
	s, err := evidence.Seal(t.Context(), key, r)
	if err != nil {
		t.Fatal(err)
	}
	second := evidence.File{Name: "second", Data: s.Data}
	replaced := evidence.Verify([]evidence.File{bank[0], bank[1], second, bank[3]}, trusted, evidence.VerifyOptions{Whole: true})
	if len(replaced.Findings) != 1 || !errors.Is(replaced.Findings[0].Err, evidence.ErrForked) || replaced.Findings[0].Number != 4 {
		t.Errorf("replaced: %q", replaced.Findings)
	}
	both := evidence.Verify([]evidence.File{bank[0], bank[1], bank[2], second, bank[3]}, trusted, evidence.VerifyOptions{Whole: true})
	if len(both.Findings) == 0 || !errors.Is(both.Err(), evidence.ErrForked) {
		t.Errorf("both: %q", both.Findings)
	}
}

func TestVerifySaysWhereTheChainsStand(t *testing.T) {
	key := evidence.KeyFromSeed(1)
	bank := chain(t, key, "bank", 4)
	p := evidence.Verify(slices.Concat(chain(t, key, "shop", 1), bank[1:]), trusted, evidence.VerifyOptions{Heads: []evidence.Hash{hashOf(t, bank[1]), hashOf(t, bank[2])}})
	if p.Err() != nil || len(p.Chains) != 2 {
		t.Fatal(p.Err(), p.Chains)
	}
	c := p.Chains[0]
	if c.Service != "bank" || c.First != 2 || c.Last != 4 || c.Head != hashOf(t, bank[3]) || c.Anchored != 3 || len(c.Reports) != 3 {
		t.Errorf("%+v", c)
	}
}

// TestVerifyNoticesFlippedBits turns a bit of every third byte of an envelope: what is
// still taken for sound says the same.
func TestVerifyNoticesFlippedBits(t *testing.T) {
	file := chain(t, evidence.KeyFromSeed(1), "bank", 1)[0]
	want, err := evidence.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(file.Data); i += 3 {
		data := slices.Clone(file.Data)
		data[i] ^= 1 << (i % 8)
		p := evidence.Verify([]evidence.File{{Name: "x", Data: data}}, trusted, evidence.VerifyOptions{Whole: true})
		if p.Err() == nil && p.Chains[0].Head != want.Hash {
			t.Errorf("byte %d: taken for sound, with another report", i)
		}
	}
}
