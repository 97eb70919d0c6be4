package server

import (
	"fmt"
	"os/user"
	"strconv"

	"github.com/tidegate/tidegate"
)

// LookupAccount finds a user of the system by name.
func LookupAccount(name string) (Account, error) {
	a, err := lookup(name)
	if err != nil {
		return Account{}, &tidegate.Error{
			Op: "find account", Subject: name, Class: tidegate.Misuse, Err: err,
			Hint: "PostgreSQL's packages make the user postgres",
		}
	}
	return a, nil
}

func lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("uid %q: %w", u.Uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("gid %q: %w", u.Gid, err)
	}
	return Account{UID: uint32(uid), GID: uint32(gid)}, nil
}
