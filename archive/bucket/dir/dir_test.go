package dir_test

import (
	"testing"

	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestConformance(t *testing.T) {
	for name, fresh := range map[string]func(t *testing.T) (vfs.FS, string){
		"os": func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"mem": func(t *testing.T) (vfs.FS, string) {
			mem := vfs.NewMem()
			if err := mem.MkdirAll("/archive"); err != nil {
				t.Fatal(err)
			}
			return mem, "/archive"
		},
	} {
		t.Run(name, func(t *testing.T) {
			buckettest.Run(t, func(t *testing.T) buckettest.Place {
				fsys, root := fresh(t)
				return buckettest.Place{
					Open:  func(*testing.T) bucket.Bucket { return dir.New(fsys, root) },
					Large: 3<<20 + 17,
					Page:  10,
				}
			})
		})
	}
}
