"""A first configuration: what four answers say, whether they are true here, and the commented file made of them.

`answers` reads what people type or paste, `surroundings` finds a company's web proxy and certification authorities,
`trials` looks whether what was said answers, `writing` makes the file. The questions themselves are the command's.
"""
