package walsender

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// commandBytesMax bounds a command's text; the longest that receivers send has
// a slot's name of 63 bytes and two numbers.
const commandBytesMax = 4096

// slotNameMax is NAMEDATALEN less its NUL.
const slotNameMax = 63

// verb is the command of a replication connection, by PostgreSQL's own name.
type verb string

const (
	identifySystem verb = "IDENTIFY_SYSTEM"
	show           verb = "SHOW"
	history        verb = "TIMELINE_HISTORY"
	readSlot       verb = "READ_REPLICATION_SLOT"
	createSlot     verb = "CREATE_REPLICATION_SLOT"
	dropSlot       verb = "DROP_REPLICATION_SLOT"
	startStreaming verb = "START_REPLICATION"
)

// command is one parsed command (repl_gram.y). What a verb has no use for is
// zero.
type command struct {
	verb      verb
	name      string       // SHOW: the parameter; slots and START_REPLICATION: the slot, "" for none
	temporary bool         // CREATE_REPLICATION_SLOT
	timeline  wal.Timeline // TIMELINE_HISTORY, START_REPLICATION; 0 there for the current one
	from      wal.LSN      // START_REPLICATION
}

// Refusals of the parser that are not syntax errors.
var (
	errLogical     = errors.New("logical replication is not supported by this server")
	errNoSuchVerb  = errors.New("command is not supported by this server")
	errSlotName    = errors.New("invalid replication slot name")
	errBadTimeline = errors.New("invalid timeline")
)

// parseCommand reads one command, with or without a closing semicolon.
func parseCommand(text string) (command, error) {
	p := &words{rest: text}
	c, err := p.command()
	if err != nil {
		return command{}, err
	}
	p.accept(";")
	if w := p.next(); w.kind != wordEnd || p.err != nil {
		return command{}, p.unexpected(w)
	}
	return c, nil
}

func (p *words) command() (command, error) {
	w := p.next()
	if w.kind != wordBare {
		return command{}, p.unexpected(w)
	}
	c := command{verb: verb(strings.ToUpper(w.text))}
	var err error
	switch c.verb {
	case identifySystem:
	case show:
		c.name, err = p.parameter()
	case history:
		c.timeline, err = p.timeline()
	case readSlot:
		c.name, err = p.slot()
	case dropSlot:
		c.name, err = p.slot()
		p.accept("WAIT")
	case createSlot:
		c.name, err = p.slot()
		if err == nil {
			c.temporary = p.accept("TEMPORARY")
			err = p.slotOptions()
		}
	case startStreaming:
		err = p.start(&c)
	case "BASE_BACKUP", "ALTER_REPLICATION_SLOT", "UPLOAD_MANIFEST":
		err = fmt.Errorf("%w: %s", errNoSuchVerb, c.verb)
	default:
		err = p.unexpected(w)
	}
	return c, err
}

// parameter reads a name with dots, as in SHOW plpgsql.variable_conflict.
func (p *words) parameter() (string, error) {
	w := p.next()
	if !w.keyword() && w.kind != wordQuoted {
		return "", p.unexpected(w)
	}
	return w.text, nil
}

func (p *words) timeline() (wal.Timeline, error) {
	w := p.next()
	if w.kind != wordBare {
		return 0, p.unexpected(w)
	}
	n, err := strconv.ParseUint(w.text, 10, 32)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n == 0:
		return 0, fmt.Errorf("%w %s", errBadTimeline, w.text)
	case err != nil:
		return 0, p.unexpected(w)
	}
	return wal.Timeline(n), nil
}

// slot reads a slot's name and checks it as ReplicationSlotValidateName does.
func (p *words) slot() (string, error) {
	w := p.next()
	if !w.keyword() && w.kind != wordQuoted {
		return "", p.unexpected(w)
	}
	name := w.text
	if w.kind == wordBare {
		name = strings.ToLower(name)
	}
	switch {
	case name == "":
		return "", fmt.Errorf("%w: replication slot name %q is too short", errSlotName, name)
	case len(name) > slotNameMax:
		return "", fmt.Errorf("%w: replication slot name %q is too long", errSlotName, name)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return "", fmt.Errorf("%w: replication slot name %q contains invalid character", errSlotName, name)
		}
	}
	return name, nil
}

// slotOptions reads the end of CREATE_REPLICATION_SLOT: the plain form PHYSICAL
// [RESERVE_WAL] and the one with options in brackets. All of these ask for what
// a slot here cannot do, so none is kept.
func (p *words) slotOptions() error {
	if p.accept("LOGICAL") {
		return errLogical
	}
	if !p.accept("PHYSICAL") {
		return p.unexpected(p.next())
	}
	if p.accept("(") {
		for {
			w := p.next()
			if !w.keyword() {
				return p.unexpected(w)
			}
			if v := p.peek(); v.kind == wordString || v.keyword() {
				p.next()
			}
			if p.accept(")") {
				return nil
			}
			if !p.accept(",") {
				return p.unexpected(p.next())
			}
		}
	}
	p.accept("RESERVE_WAL")
	return nil
}

func (p *words) start(c *command) (err error) {
	if p.accept("SLOT") {
		if c.name, err = p.slot(); err != nil {
			return err
		}
	}
	if p.accept("LOGICAL") {
		return errLogical
	}
	p.accept("PHYSICAL")
	w := p.next()
	if w.kind != wordBare {
		return p.unexpected(w)
	}
	if c.from, err = wal.ParseLSN(w.text); err != nil {
		return p.unexpected(w)
	}
	if p.accept("TIMELINE") {
		c.timeline, err = p.timeline()
	}
	return err
}

// words takes a command apart.
type words struct {
	rest string
	err  error // an unterminated quote; set once
}

type wordKind int

const (
	wordEnd    wordKind = iota
	wordBare            // an unquoted word or number, or one of ( ) , ;
	wordQuoted          // "identifier"
	wordString          // 'constant'
)

type word struct {
	kind wordKind
	text string
}

const wordSigns = "(),;"

// keyword reports whether w is a bare word and none of the signs.
func (w word) keyword() bool {
	return w.kind == wordBare && !strings.ContainsAny(w.text, wordSigns)
}

// next takes one word. At a quote that never ends it takes the end.
func (p *words) next() word {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n\f\v")
	if p.rest == "" || p.err != nil {
		return word{}
	}
	switch c := p.rest[0]; {
	case c == '"':
		return p.quoted(wordQuoted, `"`)
	case c == '\'':
		return p.quoted(wordString, `'`)
	case strings.IndexByte(wordSigns, c) >= 0:
		p.rest = p.rest[1:]
		return word{wordBare, string(c)}
	}
	n := strings.IndexAny(p.rest, " \t\r\n\f\v\"'"+wordSigns)
	if n < 0 {
		n = len(p.rest)
	}
	w := word{wordBare, p.rest[:n]}
	p.rest = p.rest[n:]
	return w
}

// quoted takes a word in quotes; the quote doubled stands for itself.
func (p *words) quoted(kind wordKind, quote string) word {
	var b strings.Builder
	rest := p.rest[1:]
	for {
		n := strings.Index(rest, quote)
		if n < 0 {
			p.err = errors.New("unterminated quoted string")
			return word{}
		}
		b.WriteString(rest[:n])
		rest = rest[n+1:]
		if !strings.HasPrefix(rest, quote) {
			p.rest = rest
			return word{kind, b.String()}
		}
		b.WriteString(quote)
		rest = rest[1:]
	}
}

func (p *words) peek() word {
	saved := *p
	w := p.next()
	*p = saved
	return w
}

// accept takes the next word if it is the given keyword or sign.
func (p *words) accept(keyword string) bool {
	w := p.peek()
	if w.kind != wordBare || !strings.EqualFold(w.text, keyword) {
		return false
	}
	p.next()
	return true
}

func (p *words) unexpected(w word) error {
	switch {
	case p.err != nil:
		return p.err
	case w.kind == wordEnd:
		return errors.New("syntax error at end of input")
	}
	return fmt.Errorf("syntax error at or near %q", w.text)
}
