package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Read asks once, by HTTP or by a command, and returns the whole answer: the body, or what
// the command prints to its standard output, which alone must have what the answer is to contain. One that is not the wanted one is [Wrong]; one
// of more than bytesMax is an error, and none of it is returned.
func (k *Asker) Read(ctx context.Context, a *Ask, bytesMax int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	body, err := k.read(ctx, a, bytesMax)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("no answer within %s: %w", a.Timeout, err)
	case err != nil:
		return nil, err
	case len(body) > bytesMax:
		return nil, fmt.Errorf("the answer has more than %d MiB", bytesMax>>20)
	case !bytes.Contains(body, []byte(k.at.Fill(a.contains()))):
		return nil, Wrong{Short(string(body))}
	}
	return body, nil
}

// contains is what the answer to a question by HTTP or a command must have.
func (a *Ask) contains() string {
	switch {
	case a.HTTP != nil:
		return a.HTTP.Contains
	case a.Command != nil:
		return a.Command.Contains
	}
	return ""
}

func (k *Asker) read(ctx context.Context, a *Ask, bytesMax int) ([]byte, error) {
	switch {
	case a.HTTP != nil:
		status, body, err := k.fetch(ctx, a.HTTP, int64(bytesMax)+1)
		if err == nil && status != a.HTTP.Status {
			err = Wrong{Short(fmt.Sprintf("%d %s", status, body))}
		}
		return body, err
	case a.Command != nil:
		out, complaints := &bounded{max: bytesMax + 1}, &bounded{max: answerBytesMax}
		exit, err := k.run(ctx, a.Command, out, complaints)
		if err == nil && exit != a.Command.Exit {
			err = Wrong{Short(fmt.Sprintf("exit %d: %s", exit, complaints.b.Bytes()))}
		}
		return out.b.Bytes(), err
	}
	return nil, errors.New("it is neither by HTTP nor by a command")
}
