#!/usr/bin/env bash
# Functions that the scripts of this directory share; they source it.

fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints a command, quoted so that it can be pasted into a shell.
show() {
  local word line=''
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=@,+~-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line="$line $word"
  done
  echo "${line# }"
}
