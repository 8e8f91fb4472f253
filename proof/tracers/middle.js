// A service in the middle: each request makes it call another one, through the proxy. It does nothing about
// baggage or traces itself; what becomes of them is up to the tracer that it is started with.
//
//   node [--require TRACER] middle.js HOST PORT PROXY-HOST PROXY-PORT CALLEE
'use strict'
const http = require('node:http')
const [host, port, proxyHost, proxyPort, callee] = process.argv.slice(2)

http.createServer((request, response) => {
  const call = http.get({ host: proxyHost, port: proxyPort, path: '/', headers: { host: callee }, localAddress: host }, (answer) => {
    response.writeHead(answer.statusCode, { 'content-type': 'text/plain' })
    answer.pipe(response)
  })
  call.on('error', (error) => {
    response.writeHead(502)
    response.end(error.message)
  })
}).listen(Number(port), host, () => console.log('listening'))
