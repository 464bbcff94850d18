// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
)

// readBody reads a body of one of the given media types. Errors are [*Problem].
func (h *handler) readBody(w http.ResponseWriter, c *call, limit int64, types ...string) (body []byte, mediaType string, err error) {
	mediaType, err = c.mediaType(types)
	if err != nil {
		return nil, "", err
	}
	if c.ContentLength > limit {
		return nil, "", tooLarge(limit)
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(h.limits.bodyTime))
	// Memory is taken as the body comes and not as its header promises.
	body, err = io.ReadAll(http.MaxBytesReader(w, c.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, "", tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, "", problem(http.StatusRequestTimeout, CodeTimeout,
			fmt.Sprintf("read body: it did not come within %v", h.limits.bodyTime))
	case err != nil:
		return nil, "", malformed(err.Error())
	}
	c.read = true
	// From here on the deadline would count as the client's going away.
	_ = rc.SetReadDeadline(time.Time{})
	return body, mediaType, nil
}

func tooLarge(limit int64) error {
	return problem(http.StatusRequestEntityTooLarge, CodeInvalid,
		fmt.Sprintf("read body: it is larger than %d bytes", limit))
}

// mediaType returns which of the types the body is of.
func (c *call) mediaType(types []string) (string, error) {
	given := c.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(given)
	encoding := c.Header.Get("Content-Encoding")
	for _, t := range types {
		if err == nil && encoding == "" && mediaType == t {
			return t, nil
		}
	}
	if encoding != "" {
		given += " in " + encoding
	}
	return "", problem(http.StatusUnsupportedMediaType, CodeUnsupported,
		fmt.Sprintf("the body is %q and not %s", given, strings.Join(types, " or ")))
}
