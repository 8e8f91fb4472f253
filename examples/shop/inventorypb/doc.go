// Package inventorypb is the gRPC contract of the shop's inventory, generated
// from inventory.proto.
package inventorypb

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.70.0 generate
