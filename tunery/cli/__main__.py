from tunery.cli.main import app

app(prog_name="tunery")
