// Connects, subscribes, publishes to itself, and leaves. Arguments: URL, MQTT
// version (4 or 5), client id, and for TLS a directory of certificates and a
// user name.
const fs = require('node:fs')
const mqtt = require('mqtt')

const [url, version, clientId, certs, username] = process.argv.slice(2)
const options = { protocolVersion: Number(version), clientId, reconnectPeriod: 0, connectTimeout: 20000 }
if (certs) {
  options.ca = fs.readFileSync(`${certs}/ca.crt`)
  options.cert = fs.readFileSync(`${certs}/dev.crt`)
  options.key = fs.readFileSync(`${certs}/dev.key`)
  options.username = username
}

const client = mqtt.connect(url, options)
const fail = (err) => { console.error(err); process.exit(1) }
client.on('error', fail)
client.on('message', (topic, payload) => {
  console.log(`received ${payload} on ${topic}`)
  client.end(false, {}, () => process.exit(0))
})
client.on('connect', () => {
  client.subscribe(`echo/${clientId}/#`, { qos: 1 }, (err, granted) => {
    if (err || granted[0].qos !== 1) return fail(err || new Error('not granted'))
    client.publish(`echo/${clientId}/x`, 'hello', { qos: 1 }, (err) => { if (err) fail(err) })
  })
})
setTimeout(() => fail(new Error('nothing came')), 30000)
