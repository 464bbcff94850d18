// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"unicode/utf8"
)

const (
	// maxName is the most bytes that a name has in the kernel. nft(8) takes 128 for a comment
	// (NFTNL_UDATA_COMMENT_MAXLEN in libnftnl/udata.h), of which the other half is
	// for the mapping's attributes.
	maxName = 63
	// maxLongName is the most bytes that a name may have before [Name].
	maxLongName = 4096
	// digits are those of the hash in a long name, 130 bits.
	digits = 26
	// hashMark stands before them.
	hashMark = "~"
)

// Name returns a name as it is kept: one of up to 63 bytes as it is; of a longer one, so much of
// its first 36 bytes as is whole characters, "~", and the first 26 digits of its SHA-256 in
// lower-case base32 (RFC 4648 section 6). The name of a name that is kept is itself.
func Name(name string) string {
	if len(name) <= maxName {
		return name
	}
	end := maxName - len(hashMark) - digits
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	sum := sha256.Sum256([]byte(name))
	return name[:end] + hashMark + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:digits]
}
