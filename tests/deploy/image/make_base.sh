#!/bin/sh
# A base for the image without a registry: Debian with Python, as one archive. make_base.sh FOLDER
set -eu
root="$1/root"
debootstrap --variant=minbase --include=python3.11,python3-venv,ca-certificates bookworm "$root"
# debootstrap may leave these mounted
umount "$root/proc" 2>/dev/null || true
umount "$root/sys" 2>/dev/null || true
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar --directory "$root" --create --file "$1/base.tar.part" --one-file-system .
mv "$1/base.tar.part" "$1/base.tar"
rm -rf --one-file-system "$root"
