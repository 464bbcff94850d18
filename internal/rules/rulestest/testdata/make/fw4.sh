nft -f ../testdata/nft/fw4.nft
