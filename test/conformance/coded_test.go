package conformance

// coded are the conversations that bytes alone cannot tell.
func coded() []*talk {
	list := []*talk{
		{version: "5.0", group: "open", ids: []string{"4.8.2"}, title: "every message goes to one member", run: spread},
		{version: "5.0", group: "open", ids: []string{"4.8.2"}, title: "a member that takes no more is passed over", run: passOver},
		{version: "5.0", group: "open", ids: []string{"MQTT-4.6.0-5", "MQTT-4.6.0-6", "MQTT-4.3.1-1"}, title: "a thousand messages in their order", run: inOrder},
		{version: "5.0", group: "open", ids: []string{"3.14.2.1"}, title: "a server that shuts down says 0x8B", run: shutDown},
		{version: "5.0", group: "open", ids: []string{"4.1.1", "MQTT-3.1.2-23", "MQTT-4.4.0-1", "MQTT-4.3.3-10", "MQTT-3.3.1-5"}, title: "sessions and retained messages outlive the server", run: outlive},
	}
	for _, v := range []string{"5.0", "3.1.1"} {
		list = append(list,
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-1"}, title: "a text frame closes the connection", run: textFrame},
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-2"}, title: "packets span frames, and frames packets", run: frames},
			&talk{version: v, group: "websocket", ids: []string{"MQTT-6.0.0-3", "MQTT-6.0.0-4"}, title: "the subprotocol is mqtt", run: subprotocol})
	}
	for _, k := range list {
		k.where = "coded_test.go"
	}
	return list
}
