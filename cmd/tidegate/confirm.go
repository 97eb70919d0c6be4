package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/cli"
)

// confirm asks the operator to type word. Without a terminal there is nobody to
// ask, and what was not confirmed is not done.
func confirm(c *ucli.Context, question, word string) error {
	if !canAsk(c) {
		return cli.Usagef("%s: may lose acknowledged work: want --yes where nobody can be asked", c.Command.Name)
	}
	fmt.Fprint(c.App.ErrWriter, question)
	line, err := bufio.NewReader(c.App.Reader).ReadString('\n')
	if strings.TrimSpace(line) == word {
		return nil
	}
	if err != nil {
		fmt.Fprintln(c.App.ErrWriter)
	}
	return cli.WithCode(cli.Aborted, fmt.Errorf("%s: not confirmed, nothing changed", c.Command.Name))
}

// canAsk reports whether somebody types: a terminal, or what a test gives.
func canAsk(c *ucli.Context) bool {
	f, file := c.App.Reader.(*os.File)
	if !file {
		return c.App.Reader != nil
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
