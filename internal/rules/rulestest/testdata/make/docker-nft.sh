nft -f ../testdata/nft/docker.nft
