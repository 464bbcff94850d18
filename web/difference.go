// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

// change is a line of the events that the page itself needs.
type change struct {
	Type    string `json:"type"` // "rows" or "part"
	Version string `json:"version"`
	// Del are rows that go, and Put rows that come or change: the id, the markup, and the id of the
	// row before it; empty: it is the first.
	Del []string    `json:"del,omitempty"`
	Put [][3]string `json:"put,omitempty"`
	// Cells are the numbers of rows: the id, connections now, and hits.
	Cells [][3]any `json:"cells,omitempty"`
	// ID is that of a part, and HTML its new markup.
	ID   string  `json:"id,omitempty"`
	HTML *string `json:"html,omitempty"`
}

// changes are what leads from one view to another.
func changes(old, v *view, removable bool) (docs []change) {
	rows := change{Type: "rows"}
	before := make(map[string]*row, len(old.rows))
	for i := range old.rows {
		before[old.rows[i].id] = &old.rows[i]
	}
	previous := ""
	for i := range v.rows {
		r := &v.rows[i]
		was, known := before[r.id]
		delete(before, r.id)
		same := known && was.m == r.m && was.state == r.state
		switch {
		case !same:
			var w writer
			w.row(r, removable)
			rows.Put = append(rows.Put, [3]string{r.id, string(w.b), previous})
		case was.flows != r.flows || was.hits != r.hits:
			rows.Cells = append(rows.Cells, [3]any{r.id, r.flows, r.hits})
		}
		previous = r.id
	}
	for i := range old.rows {
		if _, gone := before[old.rows[i].id]; gone {
			rows.Del = append(rows.Del, old.rows[i].id)
		}
	}
	if len(rows.Del)+len(rows.Put)+len(rows.Cells) != 0 {
		docs = append(docs, rows)
	}
	for i, p := range v.parts {
		if old.parts[i] != p {
			docs = append(docs, change{Type: "part", ID: p.id, HTML: &p.html})
		}
	}
	return docs
}
