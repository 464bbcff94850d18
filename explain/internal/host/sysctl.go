// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

// Sysctl reads a setting by its path below /proc/sys: "net/ipv4/ip_forward". Those below net/ are
// the namespace's. The error is fs.ErrNotExist if the kernel does not have it.
func (h *Host) Sysctl(name string) (string, error) { return "", errTODO }

// SysctlInt reads a setting that is a number.
func (h *Host) SysctlInt(name string) (int, error) { return 0, errTODO }

// Setting reads a setting of an interface as it takes effect: the kernel combines that of the
// interface with that of "all", the one way or the other (IN_DEV_ORCONF and IN_DEV_MAXCONF in
// include/linux/inetdevice.h). from is the one that decides, as sysctl(8) names it:
// "net.ipv4.conf.all.rp_filter".
func (h *Host) Setting(is4 bool, link int, name string) (value int, from string, err error) {
	return 0, "", errTODO
}
