module github.com/nftnat/nftnat/integration/portclients

go 1.25.0

require (
	github.com/huin/goupnp v1.3.1
	github.com/jackpal/go-nat-pmp v1.1.0
)

require golang.org/x/sync v0.0.0-20210220032951-036812b2e83c // indirect
