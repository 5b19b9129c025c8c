// What Node's programs do with the kernel: files, watches, children, threads, HTTP over loopback, garbage collection.
'use strict';
const fs = require('fs');
const os = require('os');
const http = require('http');
const crypto = require('crypto');
const { execSync, spawn } = require('child_process');
const { Worker } = require('worker_threads');

const settled = (start) => new Promise((resolve, reject) => start(resolve, reject));

async function main() {
  fs.writeFileSync('/tmp/a', 'hello');
  fs.copyFileSync('/tmp/a', '/tmp/b');
  fs.renameSync('/tmp/b', '/tmp/c');
  fs.mkdirSync('/tmp/deep/er', { recursive: true });
  fs.rmSync('/tmp/deep', { recursive: true });
  fs.watch('/tmp', () => {}).close();
  console.log('files', (await fs.promises.readFile('/tmp/c', 'utf8')));

  const code = await settled((resolve) => spawn('sh', ['-c', 'exit 3']).on('exit', resolve));
  console.log('children', execSync('echo child').toString().trim(), code);

  const source = "require('worker_threads').parentPort.postMessage(6 * 7)";
  console.log('threads', await settled((resolve, reject) => new Worker(source, { eval: true }).on('message', resolve).on('error', reject)));

  const server = http.createServer((request, response) => response.end('pong'));
  await settled((resolve) => server.listen(0, '127.0.0.1', resolve));
  const answer = await settled((resolve, reject) => http.get({ port: server.address().port }, resolve).on('error', reject));
  const [chunk] = await answer.toArray();
  await settled((resolve) => server.close(resolve));
  console.log('http', String(chunk));

  let kept = [];
  for (let round = 0; round < 100; round += 1) {
    kept = Array.from({ length: 10000 }, (_, number) => ({ number, round }));
  }
  global.gc();
  console.log('memory', kept.length, process.memoryUsage().rss > 0, os.cpus().length > 0, crypto.randomBytes(16).length);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
