package server

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
)

// receipts answers what this node has to say of the records that it has applied, or with
// anew=true what comes of its journals when they are carried out once more. Book by book,
// each in the journal's order.
func (s *Server) receipts(w http.ResponseWriter, r *http.Request) {
	anew := r.URL.Query().Get("anew") == "true"
	books := s.backend.Shelf().Books()
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
			return enc.Encode(api.Output{
				ID: fmt.Sprintf("%s/%s/0", b.Currency(), one.At), Receipt: s.receipt(b, one.Client, one.Request, one.Outcome),
			})
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
	all, _ := b.Receipts()
	for _, one := range all {
		if err := each(one); err != nil {
			return err
		}
	}
	return nil
}
