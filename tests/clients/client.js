// A client in Node, without packages: node client.js SOCKET publish|beat|commands [AFTER]
const http = require("node:http");
const readline = require("node:readline");
const [socketPath, what, after = "0"] = process.argv.slice(2);

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path }, async (answer) => {
      if (answer.statusCode < 300) return resolve(answer);
      reject(new Error(JSON.parse((await answer.toArray()).join("")).error));
    });
    request.on("error", reject).end(body);
  });
}

async function main() {
  if (what === "publish") {
    const answer = await ask("POST", "/v1/publish?topic=room/2", JSON.stringify({ celsius: 22.5 }));
    console.log(JSON.parse((await answer.toArray()).join("")).accepted);
  } else if (what === "beat") {
    (await ask("POST", "/v1/heartbeat")).resume();
  } else if (what === "commands") {
    for await (const line of readline.createInterface({ input: await ask("GET", `/v1/commands?after=${after}`) })) {
      const { id, topic, data } = JSON.parse(line);
      console.log(id, topic, data);
    }
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
