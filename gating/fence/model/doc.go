// Package model searches every order in which the fence protocol can happen in
// a small world.
package model
