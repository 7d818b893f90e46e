"""A client in Python, with its standard library only: client.py SOCKET publish|beat|commands [AFTER]"""
import http.client, json, socket, sys


class Pillion(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, target, body=None):
        self.request(method, target, body)
        answer = self.getresponse()
        if answer.status >= 300:
            raise OSError(json.load(answer)["error"])
        return answer


pillion, what = Pillion(sys.argv[1]), sys.argv[2]
if what == "publish":
    answer = pillion.ask("POST", "/v1/publish?topic=room/2", json.dumps({"celsius": 22.5}))
    print(json.load(answer)["accepted"])
elif what == "beat":
    pillion.ask("POST", "/v1/heartbeat")
elif what == "commands":
    after = sys.argv[3] if len(sys.argv) > 3 else "0"
    for line in pillion.ask("GET", f"/v1/commands?after={after}"):
        command = json.loads(line)
        print(command["id"], command["topic"], command["data"], flush=True)
