#!/bin/sh
# Makes a fresh Debian root ($1) look like a DGX Spark out of its box. $2: the folder with the stand-ins.
# What belongs to one lab or one host (keys, certificates, mirrors, identity) comes in when a host is created.
set -eu
root=$1 parts=$2
for tool in nvidia-smi nvidia-ctk nvidia-container-runtime nvidia-container-runtime-hook; do
  install -m 755 "$parts/$tool" "$root/usr/bin/"
done
install -m 644 "$parts/dgx-release" "$root/etc/dgx-release"
chroot "$root" systemctl --quiet mask getty@.service console-getty.service systemd-binfmt.service \
  proc-sys-fs-binfmt_misc.automount
chroot "$root" systemctl --quiet enable ssh docker
rm -f "$root/etc/hostname" "$root/etc/apt/sources.list" "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
