// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package browser tests the page of nftnat web in a real browser, Chromium without a window, against a
// real daemon.
//
// It is a module of its own, so that what drives the browser is no dependency of nftnat. The rules of
// accessibility are those of axe-core, which npm fetches at the version that package.json names, and
// which is not kept.
package browser
