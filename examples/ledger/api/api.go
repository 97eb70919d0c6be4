package api

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/rpo"
)

// The paths. Braces are [http.ServeMux] wildcards.
const (
	PathTransfers = "/transfers" // POST Command
	PathDeposits  = "/deposits"  // POST Command without From
	PathAccounts  = "/accounts"  // POST Command without From and Amount; To is the account to open
	PathTransfer  = "/transfers/{client}/{request}"
	PathAccount   = "/accounts/{currency}/{id}"
	PathDigest    = "/digest"             // ?currency=eur[&at=<position>]
	PathJournal   = "/journal/{currency}" // ?from=<position>[&to=<position>]
	PathReceipts  = "/receipts"           // GET, or ?anew=true; POST while it follows; [Output], one a line
	PathStatus    = "/status"
	PathHealth    = "/healthz"
)

// HeaderTimeout is how long the client will wait, as a Go duration. The server
// answers 503 by then at the latest.
const HeaderTimeout = "Request-Timeout"

// HeaderForwarded marks a command that a follower passed on to the leader; it
// is never passed on again, so two nodes that disagree cannot play ping-pong.
const HeaderForwarded = "Ledger-Forwarded-By"

// Journal answers carry where the body ends and who wrote it.
const (
	HeaderNext    = "Ledger-Next"    // position after the last byte of the body
	HeaderLineage = "Ledger-Lineage" // of the journal the body is from
)

// BodyMax bounds the body of a command, in bytes.
const BodyMax = 4096

// Command is the body of the three POSTs.
type Command struct {
	Client   ledger.ClientID  `json:"client"`
	Request  ledger.Request   `json:"request"`
	Currency ledger.Currency  `json:"currency"`
	From     ledger.AccountID `json:"from,omitempty"`
	To       ledger.AccountID `json:"to"`
	Amount   ledger.Amount    `json:"amount,omitempty"`

	// Durability is what the receipt must at least mean: open, bounded or sync;
	// empty or weaker than the stream's mode: what the stream promises. It concerns
	// this answer alone, and is no part of the command.
	Durability tidegate.Mode `json:"durability,omitempty"`
}

// Receipt is the answer to a command whose outcome the gate released.
type Receipt struct {
	Client    ledger.ClientID   `json:"client"`
	Request   ledger.Request    `json:"request"`
	Currency  ledger.Currency   `json:"currency"`
	Code      ledger.Code       `json:"code"`
	Position  tidegate.Position `json:"position"` // where the record that decided it begins
	Next      tidegate.Position `json:"next"`     // where it ends
	Balance   int64             `json:"balance"`
	Duplicate bool              `json:"duplicate,omitempty"` // an earlier request had already been carried out
	Epoch     tidegate.Epoch    `json:"epoch"`               // under which it was released; never part of its identity
}

// Output is one line of the answer to [PathReceipts]: a receipt with the name that it has
// for ever, as `tidegate drill` reads outputs.
type Output struct {
	ID string `json:"id"` // currency/position/0, of the record that it came of
	Receipt
}

// Reason says why a command was not answered, or a question not.
type Reason string

// The reasons. All of 503 may be tried again.
const (
	ReasonBadRequest Reason = "bad-request" // 400
	ReasonNotFound   Reason = "not-found"   // 404
	ReasonPast       Reason = "past"        // 410: the state has moved on and kept no digest there
	ReasonForgotten  Reason = "forgotten"   // 410: the request left the client's window
	ReasonNotReached Reason = "not-reached" // 503: the state is not there yet
	ReasonNoLeader   Reason = "no-leader"   // 503: an election is going on
	ReasonNotActive  Reason = "not-active"  // 503: this site follows
	ReasonFenced     Reason = "fenced"      // 503: a newer epoch is served elsewhere
	ReasonGateClosed Reason = "gate-closed" // 503: journaled, but the gate did not release it in time
	ReasonRejected   Reason = "rejected"    // 503: not journaled: the gate is closed, and its policy is to say so at once
	ReasonDraining   Reason = "draining"    // 503: not journaled, or not to be told here: a handover to another site is under way
	ReasonBusy       Reason = "busy"        // 503: too many requests at once
	ReasonStopped    Reason = "stopped"     // 503: the node is going down
)

// Problem is the body of every answer that is not the one asked for.
type Problem struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`

	// Of rejected and draining only.
	State       string        `json:"state,omitempty"`       // of the gate
	Utilisation float64       `json:"utilisation,omitempty"` // largest used share of a bound
	Exposure    *rpo.Exposure `json:"exposure,omitempty"`    // what a disaster would lose now
	RetryAfter  float64       `json:"retry_after,omitempty"` // seconds after which it may be worth trying again; a guess
}

// Account is the answer to [PathAccount]. It is read from the applied state of
// the node asked, which on a follower may be behind.
type Account struct {
	Currency ledger.Currency   `json:"currency"`
	ID       ledger.AccountID  `json:"id"`
	Balance  int64             `json:"balance"`
	Position tidegate.Position `json:"position"` // of the state it was read from
}

// Digest is the answer to [PathDigest].
type Digest struct {
	Currency ledger.Currency   `json:"currency"`
	Position tidegate.Position `json:"position"`
	Digest   tidegate.Digest   `json:"digest"`
}

// Role says how a node takes part.
type Role string

// The roles of a node.
const (
	RoleLeader   Role = "leader"   // takes commands
	RoleFollower Role = "follower" // of a raft cluster: passes commands on
	RoleStandby  Role = "standby"  // without raft, fed by the standby node beside it
)

// Status is the answer to [PathStatus].
type Status struct {
	Node     string    `json:"node"`
	Role     Role      `json:"role"`
	Leader   string    `json:"leader,omitempty"` // URL of the leader, if one is known
	Serving  bool      `json:"serving"`          // a command sent here now would be carried out here
	Streams  []Stream  `json:"streams"`
	Started  time.Time `json:"started"`
	Promoted bool      `json:"promoted"` // this node became primary by a failover
}

// State is what a stream of this service is on the node asked.
type State string

// The states of a stream.
const (
	StateIdle   State = "idle"   // another node leads
	StateActive State = "active" // outputs leave from here, as far as the gate lets them
	StateFollow State = "follow" // applies what the other site committed
	StateFenced State = "fenced" // a newer epoch is held elsewhere
)

// Stream is one currency's part of a Status. A pointer is null where the value
// is not known, which is never the same as 0.
type Stream struct {
	Currency ledger.Currency    `json:"currency"`
	State    State              `json:"state"`
	Epoch    tidegate.Epoch     `json:"epoch"` // latest that the agent beside this node held
	FencedBy tidegate.Epoch     `json:"fenced_by"`
	Lineage  tidegate.Lineage   `json:"lineage"`
	Applied  tidegate.Position  `json:"applied"`
	End      tidegate.Position  `json:"end"`      // L: fsynced here
	Released *tidegate.Position `json:"released"` // A
	Durable  *tidegate.Position `json:"durable"`  // D, as last heard
	Records  uint64             `json:"records"`
	Accounts int                `json:"accounts"`
	Minted   int64              `json:"minted"`
}
