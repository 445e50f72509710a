package dax

const serverArg = "attach-test-server"

func serverMain([]string) int { return 2 }
