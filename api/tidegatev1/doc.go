// Package tidegatev1 is generated from proto/tidegate/v1: the messages of the
// control plane, version 1.
package tidegatev1
