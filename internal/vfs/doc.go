// Package vfs is the seam between the product and the file system: every byte
// that must survive goes through an [FS].
//
// [OS] is the real one. [Mem] keeps everything in memory and can tell what a
// power cut would leave: [Mem.CrashClone] forgets unsynced bytes (partly, torn
// at sector granularity) and unsynced directory entries. [Inject] wraps any FS
// and fails chosen operations, so that "crash at every operation" is a loop:
//
//	for n := int64(0); ; n++ {
//		mem := vfs.NewMem()
//		fault := vfs.CrashAt(n)
//		scenario(vfs.Inject(mem, fault.Inject))
//		check(mem.CrashClone(seed))
//		if !fault.Fired() {
//			break
//		}
//	}
//
// # What is promised
//
//   - A byte survives a power cut once [File.Sync] returned nil after it was written.
//   - A name survives once [FS.SyncDir] of its directory returned nil after it was made.
//   - No space left is always reported as an error for which
//     errors.Is(err, tidegate.ErrFull) holds; a missing file as one for which
//     errors.Is(err, tidegate.ErrNotFound) holds, a name already taken as
//     tidegate.ErrConflict. The standard library's fs errors hold as well.
//
// # Concurrency
//
// An FS may be used concurrently. A File allows concurrent ReadAt, WriteAt,
// Size and Sync; Read, Write, Truncate and Close need one caller at a time.
package vfs
