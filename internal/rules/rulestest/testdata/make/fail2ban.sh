nft -f ../testdata/nft/fail2ban.nft
