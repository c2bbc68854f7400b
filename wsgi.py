from flaskml import create_app

app = create_app()
