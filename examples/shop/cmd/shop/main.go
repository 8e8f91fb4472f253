// Command shop runs one service of the example shop: shop SERVICE.
package main

import (
	"os"

	"github.com/layover-dev/layover/examples/shop"
)

func main() {
	os.Exit(shop.Main(os.Args[1:], os.Stdout, os.Stderr))
}
