'use strict';
// Node before 22.21 and 24.5 asks no proxy, and later ones none for agents that a program makes: what is required here leads the
// connections of http, https and fetch through the one of layover exec, by CONNECT. Connections to loopback addresses stay as they are.
const net = require('node:net');
const tls = require('node:tls');
const http = require('node:http');
const https = require('node:https');

const proxy = process.env.LAYOVER_FORWARD_PROXY && new URL(process.env.LAYOVER_FORWARD_PROXY);

function passes(host) {
  return !host || host === 'localhost' || host === '::1' || host === '[::1]' || /^127\./.test(host);
}

function tunnel(host, port, done) {
  const socket = net.connect({ host: proxy.hostname, port: Number(proxy.port) });
  let head = Buffer.alloc(0);
  const fail = (err) => {
    socket.removeListener('data', read);
    socket.removeListener('close', closed);
    socket.destroy();
    done(err);
  };
  const closed = () => fail(new Error('layover exec: its proxy ended before it answered CONNECT'));
  const read = (chunk) => {
    head = Buffer.concat([head, chunk]);
    const end = head.indexOf('\r\n\r\n');
    if (end < 0) {
      if (head.length > 65536) fail(new Error('layover exec: no answer to CONNECT'));
      return;
    }
    socket.removeListener('data', read);
    socket.removeListener('close', closed);
    socket.pause();
    const status = head.toString('latin1', 0, end).split('\r\n')[0];
    if (!/^HTTP\/1\.[01] 200 /.test(status)) {
      fail(new Error('layover exec: CONNECT ' + host + ':' + port + ' was answered with ' + status));
      return;
    }
    socket.removeListener('error', fail);
    const rest = head.subarray(end + 4);
    if (rest.length) socket.unshift(rest);
    done(null, socket);
  };
  socket.once('error', fail);
  socket.once('close', closed);
  socket.on('data', read);
  socket.setNoDelay(true);
  const name = host.includes(':') ? '[' + host + ']' : host;
  socket.write('CONNECT ' + name + ':' + port + ' HTTP/1.1\r\nHost: ' + name + ':' + port + '\r\n\r\n');
}

if (proxy) {
  const plain = http.Agent.prototype.createConnection;
  http.Agent.prototype.createConnection = function (options, done) {
    const host = options.host || options.hostname;
    if (this instanceof https.Agent || options.socketPath || passes(host)) return plain.call(this, options, done);
    tunnel(host, options.port || 80, (err, socket) => {
      if (err) return done(err);
      done(null, socket);
      setImmediate(() => socket.resume()); // http listens to it by then
    });
  };
  const secure = https.Agent.prototype.createConnection;
  https.Agent.prototype.createConnection = function (options, done) {
    const host = options.host || options.hostname;
    if (options.socketPath || options.socket || passes(host)) return secure.call(this, options, done);
    tunnel(host, options.port || 443, (err, socket) => {
      if (err) return done(err);
      done(null, tls.connect({ ...options, socket, servername: options.servername || (net.isIP(host) ? '' : host) }));
    });
  };

  const dispatcher = Symbol.for('undici.globalDispatcher.1');
  void globalThis.Response; // loads the fetch that Node brings
  const usual = globalThis[dispatcher];
  if (usual && usual.constructor.name !== 'EnvHttpProxyAgent') { // that one asks the proxy by itself
    globalThis[dispatcher] = new usual.constructor({
      connect(options, done) {
        const secure = options.protocol === 'https:';
        const host = options.hostname.replace(/^\[|\]$/g, '');
        const port = Number(options.port) || (secure ? 443 : 80);
        const over = (socket) => {
          if (!secure) return done(null, socket);
          const out = tls.connect({ socket, servername: options.servername || (net.isIP(host) ? undefined : host), ALPNProtocols: ['http/1.1'] });
          out.once('secureConnect', () => done(null, out));
          out.once('error', (err) => done(err));
        };
        if (passes(host)) {
          const socket = net.connect({ host, port });
          socket.once('connect', () => { socket.removeListener('error', done); over(socket); });
          socket.once('error', done);
          return;
        }
        tunnel(host, port, (err, socket) => (err ? done(err) : over(socket)));
      },
    });
  }
}
