"""The main job from start to end, shown and checked: each step says what it does, does it with plain requests, and proves it.

`stage` is where it plays (the all-in-one, requests that are shown as they are sent), `plays` what is ordered, `steps` what
happens, `remains` the proof that nothing is left.
"""
