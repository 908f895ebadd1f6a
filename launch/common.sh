#!/usr/bin/env bash
# What the scripts beside this one share; they source it.

fail() {
  echo "error: $*" >&2
  exit 2
}

# Prints a command so that it can be pasted into a shell.
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
