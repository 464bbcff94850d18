// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package glossary has a test alone: it refuses the words that docs/glossary.md lists as
// those not to use, in every text file of the repository.
package glossary
