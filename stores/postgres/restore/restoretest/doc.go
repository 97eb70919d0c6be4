// Package restoretest has a PostgreSQL primary whose base and log lie in an archive, for
// tests of what is rebuilt from them.
package restoretest
