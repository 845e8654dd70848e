"""
What modes share whose ways in are elements of nft's maps: how a packet finds its way in, and what
becomes of those that nobody serves.

    layout   names of fields, how keys are packed
    doors    sets and chains that are there even with no service: ways in, source ranges, rejects
    ways     what one service port adds to them
"""
