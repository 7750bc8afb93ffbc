"""What tests of several rooms share: sample archives and shard folders, small runs, and children of several devices."""
