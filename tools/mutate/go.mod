module rollcall/tools/mutate

go 1.26.0
