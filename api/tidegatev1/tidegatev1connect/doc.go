// Package tidegatev1connect is generated from proto/tidegate/v1: clients and
// handlers of the control plane, version 1.
package tidegatev1connect
