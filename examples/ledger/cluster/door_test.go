package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDoorWaitsForThoseInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d door
		for range 2 {
			if !d.enter() {
				t.Fatal("an open door was closed")
			}
		}
		left := make(chan bool, 1)
		go func() { left <- d.shut(time.Minute) }() // owned by the bubble; ends with shut
		synctest.Wait()
		if d.enter() {
			t.Error("a shut door let somebody in")
		}
		d.leave()
		synctest.Wait()
		if len(left) != 0 {
			t.Fatal("shut while somebody was inside")
		}
		d.leave()
		if !<-left {
			t.Error("everybody left, and it says otherwise")
		}
	})
}

func TestDoorGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d door
		d.enter()
		began := time.Now()
		if d.shut(time.Minute) {
			t.Error("somebody is still inside")
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("took %s", took)
		}
		d.leave()
	})
}
