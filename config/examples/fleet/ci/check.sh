#!/bin/sh
# What runs on every pull request. Two folders: the policy as it is on main, and as it would be.
#   ci/check.sh ../main/policy policy
set -eu
now=$1
next=$2

# 1. Every document is right, for every store.
tillgate validate "$next"

# 2. What it does: how many stores, and what there. More than this many stores at once need a
#    label on the pull request, which sets the variable.
tillgate plan "$now" "$next" --max-stores "${MAX_STORES:-500}"

# 3. What every store will run. The digests are published with the policy, and each gateway
#    compares its own with them.
tillgate compile "$next" --all-stores > digests.txt
