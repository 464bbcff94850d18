nft -f ../testdata/nft/kube-proxy.nft
