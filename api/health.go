// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/http"
)

func (h *handler) getHealth(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	if h.Health == nil {
		return absent("health check")
	}
	ctx, cancel := context.WithTimeout(c.Context(), h.limits.healthTime)
	defer cancel()
	if err := h.Health(ctx); err != nil {
		return problem(http.StatusServiceUnavailable, problemOf(err).Code, "check health: "+err.Error())
	}
	h.send(w, http.StatusOK, "text/plain; charset=utf-8", bytes.NewBufferString(healthy))
	return nil
}

// healthy is the body of an answer that says that all is well.
const healthy = "ok\n"

// Health asks whether the server can do its work: whether its engine answers within 5 s and
// its table is in the kernel. Nil: yes. Otherwise the error is a [*Problem] that says what is
// wrong, or tells that no server answers.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil)
}
