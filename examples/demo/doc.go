// Command demo runs the main job on one machine, with real processes, and
// shows what came of it.
//
// Act one: kill -9 of everything on the primary site, sync mode. Act two: the
// primary site is cut off and frozen (SIGSTOP), failed over, then thawed. After
// each act the demo compares what clients were told with what the DR site holds
// and ends with a table; exit 0 only if everything held.
package main
