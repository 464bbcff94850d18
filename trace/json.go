// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

// Document returns an event as an object for JSON, whose field "type" is "begin", "step", "packet", "later" or
// "note".
func Document(e Event) any {
	type kind struct {
		Type string `json:"type"`
	}
	switch e := e.(type) {
	case Begin:
		return struct {
			kind
			Begin
		}{kind{"begin"}, e}
	case Step:
		return struct {
			kind
			Step
		}{kind{"step"}, e}
	case Packet:
		return struct {
			kind
			Packet
		}{kind{"packet"}, e}
	case Later:
		return struct {
			kind
			Later
		}{kind{"later"}, e}
	case Note:
		return struct {
			kind
			Note
		}{kind{"note"}, e}
	}
	return nil
}
