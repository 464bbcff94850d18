// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// Over TCP health is plain text, one line either way.
func TestHealthOverTCP(t *testing.T) {
	for _, x := range []struct {
		err  error
		code int
		body string
	}{
		{nil, http.StatusOK, "ok\n"},
		{errors.New("two\nlines"), http.StatusServiceUnavailable, "check health: two; lines\n"},
	} {
		w := httptest.NewRecorder()
		healthHandler(func(context.Context) error { return x.err }).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/healthz", http.NoBody))
		require.Equal(t, x.code, w.Code)
		require.Equal(t, x.body, w.Body.String())
		require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
	}
}
