from wordkiln.cli import main

main()
