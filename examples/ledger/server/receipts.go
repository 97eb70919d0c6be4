package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
)

// receipts answers what this node has put out, each under the epoch of then: nothing while
// it follows; once it was promoted, what it had held back and not handed, and what came
// after. POST, while it follows, answers what it holds back, as put out by the node that is
// active, and hands it: it is not put out again. With anew=true it answers what comes of its
// journals when they are carried out once more. Book by book, each in the journal's order.
func (s *Server) receipts(w http.ResponseWriter, r *http.Request) {
	anew := r.URL.Query().Get("anew") == "true"
	books := s.backend.Shelf().Books()
	if r.Method == http.MethodPost && !s.backend.Follows() {
		problem(w, http.StatusConflict, api.ReasonBadRequest, "this node is active: only one that follows holds receipts back")
		return
	}
	for _, b := range books {
		if _, kept := b.Receipts(); !kept {
			problem(w, http.StatusNotFound, api.ReasonNotFound, "this node keeps no receipts: start it with --receipts")
			return
		}
		if err := s.release(r.Context(), b, b.Position()); err != nil {
			s.refuseFor(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for _, b := range books {
		each := func(one book.Receipt) error {
			out := api.Output{ID: fmt.Sprintf("%s/%s/0", b.Currency(), one.At), Receipt: s.receipt(b, one.Client, one.Request, one.Outcome)}
			out.Epoch = one.Epoch
			return enc.Encode(out)
		}
		if err := s.eachReceipt(r, b, anew, each); err != nil {
			s.log.Warn("receipts cut off", "stream", b.Currency().String(), "err", err)
			panic(http.ErrAbortHandler) // lines have left: only a cut says that there are more
		}
	}
}

func (*Server) eachReceipt(r *http.Request, b *book.Book, anew bool, each func(book.Receipt) error) error {
	if anew {
		return b.Execute(r.Context(), each)
	}
	var all []book.Receipt
	if r.Method == http.MethodPost {
		all = b.Handed()
	} else {
		all, _ = b.Receipts()
		all = slices.DeleteFunc(all, func(r book.Receipt) bool { return !r.Out })
	}
	for _, one := range all {
		if err := each(one); err != nil {
			return err
		}
	}
	return nil
}
