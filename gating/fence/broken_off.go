//go:build !mutate

package fence

func broken(rule) bool { return false }
